"""What each pixel of a training image may be taught, grown from marks and known areas."""
