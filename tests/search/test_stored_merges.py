"""What a store amounts to by the rules of today."""

from integrand.search.candidate import Candidate
from integrand.search.history import History
from integrand.search.rung import Rung
from integrand.search.slots import Slots
from integrand.search.store import Outcome, Record
from integrand.search.strategy import Exhaustive
from integrand.spec import Spec

TEXTS = ("exp(x)*sigmoid(-x)", "sigmoid(x)", "1 - sigmoid(-x)", "sigmoid(x)*1.5")
SPACE = Slots("t", {"text": TEXTS}, lambda chosen: Spec(name="f", function=chosen["text"]))


def test_a_stored_merge_that_is_none_today_is_evaluated_after_all() -> None:
    asked = [Candidate(SPACE.spec((text,)), (text,)) for text in TEXTS]
    first = asked[0].key
    outcomes = [Outcome(reason="overflows"), *3 * [Outcome(same_as=first)]]

    def record(i: int, number: int, outcome: Outcome | None = None) -> Record:
        return Record(number, number, "r", asked[i].key, asked[i].to_dict(), "new", outcome=outcome)

    def news(history: History, *records: Record) -> History:
        for r in records:
            history.apply(r)
        return history

    def empty() -> History:
        return History(SPACE, Exhaustive(SPACE), [Rung("r", lambda _: {}, 1.0)], {})

    stored = [record(i, i, outcome) for i, outcome in enumerate(outcomes)]
    history = news(empty(), *stored)
    # the first is refused, and no longer taken for the others
    assert [history.find(c) for c in asked] == [first, None, None, None]
    assert (history.count, history.same) == (1, {})
    # one of them goes on, and stands for the rest; so it does for who reads all of it from a store
    stored += [record(1, 4, Outcome({"score": 1.0})), record(2, 5, Outcome(same_as=asked[1].key))]
    for later in (news(history, *stored[4:]), news(empty(), *stored)):
        assert [later.find(c) for c in asked] == [first, *3 * [asked[1].key]]
        assert later.ladder.floors[0].scores == {asked[1].key: 1.0}
