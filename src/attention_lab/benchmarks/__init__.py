"""Speed and memory of attention and of training, beside other libraries: `attention-lab bench`."""
