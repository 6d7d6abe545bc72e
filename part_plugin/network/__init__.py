"""The network that is attacked: seen through its wrappers, left as it was, made faster, fed in parts."""
