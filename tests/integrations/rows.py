"""Our tiny data and network, in the form of other libraries: samples are dictionaries."""

import torch

from mm_balance.methods import find_method

METHOD = find_method("concat_unimodal")


class Rows(torch.utils.data.Dataset):
    """A split of ours as samples of a data set."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, place):
        inputs = {name: values[place] for name, values in self.split.inputs.items()}
        return {**inputs, "label": self.split.labels[place], "id": self.split.samples[place]}


def logits_of(network, batch):
    labels = batch["label"]
    inputs = {name: batch[name] for name in network.modalities}
    output = network(inputs)
    return output.unimodal, labels, batch["id"], output.fused


def several_of(network, batch):
    """The same with multi-hot labels, two true classes each."""
    unimodal, labels, ids, fused = logits_of(network, batch)
    labels = torch.nn.functional.one_hot(labels, fused.shape[1]).bool()
    return unimodal, labels | labels.roll(1, dims=1), ids, fused
