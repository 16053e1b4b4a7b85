"""The containerd driver: containers over the CRI (runtime.v1), on gRPC."""
