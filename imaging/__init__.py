"""Medical images in, label maps out: find, read, order, geometry, write."""
