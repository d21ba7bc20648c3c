"""The VGG family: its table, its weights, its frozen features, and the workshop: `styler vgg …`.

Fine-tuning a VGG on pictures of one's own
------------------------------------------
Painting needs no labels and no fine-tuning; but a network that knows your kind of pictures (scans, X-rays, drawings)
sees more in them. Train it as a classifier of your pictures with torchvision, then bring it here:

    network = torchvision.models.vgg16(weights="IMAGENET1K_V1")
    network.classifier[6] = torch.nn.Linear(4096, classes)
    for layer in network.features[:10]:            # blocks 1 and 2: edges and colours are everybody's
        layer.requires_grad_(False)
    ...                                            # torchvision's references/classification/train.py, --lr 1e-3
    torch.save(network.state_dict(), "mine.pth")   # then: styler vgg import mine.pth mine

Freeze blocks 1 and 2 always, block 3 with fewer than some ten thousand pictures, blocks 1 to 4 with fewer than a
thousand. Keep torchvision's normalisation in training: it is folded into the first convolution on import. With a batch
below 16 take the network without batch norm, or leave its running statistics as they are (`eval()`). Then ask `styler
vgg diagnose --backbone mine` whether it sees as it should, and `styler vgg compare vgg16 mine` whether it paints.

What of the usual advice is replaced here, and why
--------------------------------------------------
*Dynamic quantisation* rounds the weights of linear and recurrent layers, and what painting uses of a VGG has none: it
would do nothing. Here weights are stored in 8 bits per output channel, and an ONNX model computes in static int8,
calibrated on pictures.

*A ResNet as teacher* is the usual way to a small network of higher accuracy. Ours must be the full VGG: it is the
VGG's own features, Gram matrices and gradients that painting follows, and a network that tells pictures apart in
another way teaches another manner.

*Accuracy on ImageNet* is the usual measure of what slimming costs. It says nothing of style: here a network is judged
by the full network's objective of the pictures painted with it, and by distances that nobody optimised (`compare`).
"""
