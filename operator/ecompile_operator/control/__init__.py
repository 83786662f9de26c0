"""The operator's side of the control stream: who is attached, what they reported, and routing pushed to them."""
