"""What the command lines share: options, inputs, outputs, the loop over files, errors."""
