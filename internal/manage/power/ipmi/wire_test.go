package ipmi

import (
	"bytes"
	"testing"
)

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
