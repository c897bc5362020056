"""What a batch asks of a model: its labels, and the documents that attention may not leave.

Dimensions: B rows, T + 1 tokens in each, of which T are inputs and T labels.
"""

import torch
from torch import Tensor

from integrand.train.config import TrainConfig
from integrand.train.goldfish import goldfish

LEFT_OUT = -100  # of the loss: what F.cross_entropy ignores


def objective(
    tokens_BT: Tensor, config: TrainConfig, separator: int | None
) -> tuple[Tensor, Tensor | None]:
    """(labels, document of each input or None) of token ids (B, T + 1): next tokens as config says.

    `separator` is the id that ends a document; None: each row is one. With goldfish_k one label in
    k is LEFT_OUT. With mask_documents so is the one after each separator, and the documents of the
    inputs are given. Each row is treated by itself.
    """
    labels_BT, documents_BT = tokens_BT[:, 1:], None
    if config.mask_documents:
        labels_BT, documents_BT = within_documents(tokens_BT, separator)
    if config.goldfish_k:
        whole_BT = documents_of(tokens_BT, separator)
        out_BT = goldfish(tokens_BT, whole_BT, config.goldfish_k, config.goldfish_context)
        labels_BT = labels_BT.masked_fill(out_BT[:, 1:], LEFT_OUT)
    return labels_BT, documents_BT


def within_documents(tokens_BT: Tensor, separator: int | None) -> tuple[Tensor, Tensor]:
    """(labels, documents) of inputs (B, T): LEFT_OUT where a label is in another document."""
    documents_BT = documents_of(tokens_BT, separator)
    crosses = documents_BT[:, 1:] != documents_BT[:, :-1]
    return tokens_BT[:, 1:].masked_fill(crosses, LEFT_OUT), documents_BT[:, :-1]


def documents_of(tokens_BT: Tensor, separator: int | None) -> Tensor:
    """Number of each token's document within its row; a separator is the last token of its own."""
    if separator is None:
        return torch.zeros_like(tokens_BT)
    ends_BT = (tokens_BT == separator).long()
    return ends_BT.cumsum(1) - ends_BT
