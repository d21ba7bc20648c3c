"""The feature network: the VGG family as a table, its weights, and one frozen forward pass.

    arch ─► weights ─► model ─► conventions ─► importers ─► registry

`arch` knows names and numbers only; `weights` reads and verifies files of styler; `model` computes features;
`conventions` detects a network that receives its input in the wrong form; `importers` reads files of other projects;
`registry` finds a network by its name. What one does *with* a network (slim it, export it, compare it) is in
`styler.workshop`.
"""
