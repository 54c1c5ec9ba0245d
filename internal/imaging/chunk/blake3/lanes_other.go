//go:build !amd64

package blake3

func kernels() []kernel { return nil }
