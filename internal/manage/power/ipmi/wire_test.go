package ipmi

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestSealOpen(t *testing.T) {
	for _, s := range []suite{suite3, suite17} {
		k, err := newKeys(s, []byte("session integrity key"))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 70 {
			plain := bytes.Repeat([]byte{0xa5}, n)
			raw := k.seal(payloadIPMI, 7, 9, plain)
			p, err := parsePacket(raw)
			if err != nil || p.id != 7 || p.seq != 9 || !p.sealed {
				t.Fatalf("suite %d: %d bytes: %+v, %v", s.id, n, p, err)
			}
			if got, err := k.open(p); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("suite %d: %d bytes come back as %x, %v", s.id, n, got, err)
			}
			for range 20 { // no bit may change, and none may be missing
				bad := bytes.Clone(raw)
				bad[rand.IntN(len(bad)-4)+4] ^= 1 << rand.IntN(8)
				if p, err := parsePacket(bad); err == nil {
					if _, err := k.open(p); err == nil {
						t.Fatalf("suite %d: a changed packet is taken: %x", s.id, bad)
					}
				}
				if p, err := parsePacket(raw[:rand.IntN(len(raw))]); err == nil {
					if _, err := k.open(p); err == nil {
						t.Fatalf("suite %d: a cut packet is taken", s.id)
					}
				}
			}
		}
	}
}

func TestFresh(t *testing.T) {
	var c session
	for _, step := range []struct {
		seq  uint32
		want bool
	}{{0, false}, {1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {40, true}, {8, false}, {9, true}, {9, false}, {41, true}, {1000, true}, {41, false}, {969, true}, {968, false}, {999, true}} {
		if got := c.fresh(step.seq); got != step.want {
			t.Errorf("packet %d is fresh: %v, want %v", step.seq, got, step.want)
		}
	}
}

func FuzzPacket(f *testing.F) {
	k, err := newKeys(suite17, []byte("session integrity key"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.seal(payloadIPMI, 7, 9, request(1, fnChassis, cmdChassisStatus, nil)))
	f.Add(plainPacket(payloadOpenResponse, make([]byte, 36)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := parsePacket(raw)
		if err != nil {
			return
		}
		k.open(p)
		parseResponse(p.payload, 1, fnChassis, cmdChassisStatus)
		// With a right code, whatever it signs: a BMC may send anything.
		if len(raw) >= headerLen+len(p.payload)+2 {
			signed := append(bytes.Clone(raw), k.mac(k.k1, raw[4:])[:k.check]...)
			if p, err := parsePacket(signed); err == nil {
				if plain, err := k.open(p); err == nil {
					parseResponse(plain, 1, fnChassis, cmdChassisStatus)
				}
			}
		}
	})
}
