"""What a network does on real inputs: captured activations (.nfrtrace) and their stability (.nfrsg)."""
