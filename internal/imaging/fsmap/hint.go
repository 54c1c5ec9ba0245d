package fsmap

import (
	"bytes"
	"strings"
)

// hints say what to do about kinds of content that are captured whole. They begin with what it means.
var hints = map[string]string{
	"crypto_LUKS": "all of it is captured, free space too, which hardly compresses, and whoever gets a copy can open it with the same " +
		"passphrases and the same volume key; for what is in use only, open it (cryptsetup open) and capture the device below " +
		"/dev/mapper as an image of its own; give copies a key of their own with \"cryptsetup reencrypt\"",
	"BitLocker": "all of it is captured, free space too, which hardly compresses, and a copy on another computer asks for the recovery " +
		"key, as its TPM does not know it; for what is in use only, decrypt it in Windows (manage-bde -off) before the capture, and " +
		"turn BitLocker on again on each copy",
	"bcache": "this disk alone may lack what only the cache holds; detach the cache before the capture " +
		"(echo 1 >/sys/block/bcacheN/bcache/detach), or capture /dev/bcacheN as an image of its own",
	"zfs_member": "export the pool before the capture (zpool export); copies have the same GUID, and no machine can import two of them " +
		"before \"zpool reguid\"",
}

// luks returns UUID and label of the header of LUKS 1 and 2, as blkid prints them (LUKS2 On-Disk Format, section 2.1; in
// version 1 the cipher stands where the label is).
func luks(head []byte) (uuid, label string) {
	field := func(off, n int) string {
		if off+n > len(head) {
			return ""
		}
		b, _, _ := bytes.Cut(head[off:off+n], []byte{0})
		return strings.ToValidUTF8(string(b), "\ufffd")
	}
	if len(head) > 7 && head[6] == 0 && head[7] == 2 {
		label = field(24, 48)
	}
	return field(168, 40), label
}
