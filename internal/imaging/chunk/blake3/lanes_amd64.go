package blake3

import "golang.org/x/sys/cpu"

// lanes512 and lanes2 compress as many 64-byte blocks of each lane as blocks says, which lie behind each other from in[lane]
// on. The first block takes the first row of flags, the last one of several the last row, the others the second. out gets
// the chaining values: row i is word i of all lanes. lanes512 has sixteen lanes, lanes2 the first eight.
//
//go:noescape
func lanes512(in *[16]*byte, blocks int, flags *[3][16]uint32, counters *[16]uint32, out *[8][16]uint32)

//go:noescape
func lanes2(in *[16]*byte, blocks int, flags *[3][16]uint32, counters *[16]uint32, out *[8][16]uint32)

// kernels are what this processor can do, best first.
func kernels() (list []kernel) {
	if cpu.X86.HasAVX512F {
		list = append(list, kernel{"AVX-512", 16, lanes512})
	}
	if cpu.X86.HasAVX2 {
		list = append(list, kernel{"AVX2", 8, lanes2})
	}
	return list
}
