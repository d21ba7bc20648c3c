"""Tools for the network itself: inspect, slim, distill, quantize, export, compare and diagnose it (`styler vgg`).

Fine-tuning a VGG on your own pictures
--------------------------------------
Painting needs no labels and no fine-tuning; but a network that knows your kind of pictures (scans, X-rays, drawings)
distinguishes more in them. Train it as a classifier of your pictures with torchvision, then import it:

    network = torchvision.models.vgg16(weights="IMAGENET1K_V1")
    network.classifier[6] = torch.nn.Linear(4096, classes)
    for layer in network.features[:10]:            # blocks 1 and 2: edges and colors are common to all pictures
        layer.requires_grad_(False)
    ...                                            # torchvision's references/classification/train.py, --lr 1e-3
    torch.save(network.state_dict(), "mine.pth")   # then: styler vgg import mine.pth mine

Always freeze blocks 1 and 2; freeze block 3 as well with fewer than about ten thousand pictures, and blocks 1 to 4
with fewer than a thousand. Keep torchvision's normalization in training: it is folded into the first convolution on
import. With batches smaller than 16, use the network without batch norm, or leave its running statistics unchanged
(`eval()`). Then `styler vgg diagnose --backbone mine` reports whether it receives its input correctly, and `styler vgg
compare vgg16 mine` how well it paints.

Where we depart from common advice, and why
-------------------------------------------
*Dynamic quantization* rounds the weights of linear and recurrent layers, and the part of a VGG that painting uses has
none: it would have no effect. Here weights are stored in 8 bits per output channel, and an ONNX model computes in
static int8, calibrated on pictures.

*A ResNet as teacher* is the usual way to make a small network more accurate. Ours must be the full VGG: painting
follows the VGG's own features, Gram matrices and gradients, and a network that classifies differently teaches a
different style.

*Accuracy on ImageNet* is the usual measure of what slimming costs. It says nothing about style: here a network is
judged by the full network's objective of the pictures painted with it, and by distances that were not optimized
(`compare`).
"""
