"""The feature network: the VGG family as a table, its weights, and one frozen forward pass.

    arch ─► weights ─► model ─► conventions ─► importers ─► registry

`arch` knows names and numbers only; `weights` reads and verifies styler's files; `model` computes features;
`conventions` detects a network that receives its input in the wrong form; `importers` reads files of other projects;
`registry` finds a network by its name. The tools that work on a network (slimming, export, comparison) are in
`styler.workshop`.
"""
