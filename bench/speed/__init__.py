"""Speed and memory of engines and whole commands, against named peers in the same rounds."""
