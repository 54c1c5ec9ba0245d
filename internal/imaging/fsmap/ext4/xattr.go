package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"mimeo/internal/imaging/fsmap/tree"
)

var _ tree.Attributed = (*Tree)(nil)

// attrPrefix are the beginnings of names that entries have as a number (ext4's documentation in the kernel, "Extended
// Attributes", "Attribute Name Indices"); those of ACLs are whole names.
var attrPrefix = map[byte]string{1: "user.", attrACL: "system.posix_acl_access", attrDefaultACL: "system.posix_acl_default", 4: "trusted.", 6: "security.", xattrSystem: "system."}

const (
	attrACL        = 2
	attrDefaultACL = 3
	attrEntry      = 16       // bytes of an entry before its name
	attrHead       = 32       // bytes of a block before its first entry
	maxAttr        = 64 << 10 // bytes of a value, as Linux has it
)

// Attributes implements tree.Attributed.
func (t *Tree) Attributes(nr uint64) (map[string][]byte, error) {
	b, err := t.inode(nr)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	if len(b) > 0x82 {
		at := 0x80 + int(le.Uint16(b[0x80:]))
		if at+4 <= len(b) && le.Uint32(b[at:]) == xattrMagic {
			if err := t.attributes(b[at+4:], b[at+4:], out); err != nil {
				return nil, err
			}
		}
	}
	if n := blockNr(le.Uint32(b[0x68:])) | blockNr(le.Uint16(b[0x76:]))<<32; n != 0 {
		block, err := t.fs.readMeta(n)
		if err != nil {
			return nil, err
		}
		if le.Uint32(block) != xattrMagic {
			return nil, damaged("block %d of extended attributes of inode %d has no magic number", n, nr)
		}
		if err := t.attributes(block[attrHead:], block, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// attributes reads entries. Where a value is is counted from the start of values.
func (t *Tree) attributes(e, values []byte, out map[string][]byte) error {
	for len(e) >= 4 && le.Uint32(e) != 0 {
		n := int(e[0])
		if len(e) < attrEntry+n {
			return damaged("an extended attribute's entry is cut off")
		}
		name, off, inode, size := string(e[attrEntry:][:n]), int64(le.Uint16(e[2:])), uint64(le.Uint32(e[4:])), int64(le.Uint32(e[8:]))
		prefix, known := attrPrefix[e[1]]
		index := e[1]
		e = e[min(len(e), (attrEntry+n+3)&^3):]
		if !known || prefix+name == "system.data" { // the latter is content
			continue
		}
		var value []byte
		switch {
		case size > maxAttr || inode == 0 && (off > int64(len(values)) || size > int64(len(values))-off):
			return damaged("extended attribute %s has %d bytes at %d", prefix+name, size, off)
		case inode == 0:
			value = bytes.Clone(values[off:][:size])
		default: // a large one lies in an inode of its own
			b, err := t.inode(inode)
			if err != nil {
				return err
			}
			r, err := t.content(b, size)
			if err != nil {
				return err
			}
			value = make([]byte, size)
			if n, err := r.ReadAt(value, 0); int64(n) < size {
				return fmt.Errorf("read extended attribute %s: %w", prefix+name, err)
			}
		}
		if index == attrACL || index == attrDefaultACL {
			var err error
			if value, err = acl(value); err != nil {
				return err
			}
		}
		out[prefix+name] = value
	}
	return nil
}

// acl makes an access control list as ext4 keeps it (version 1: an ID for named users and groups alone) one as programs see it
// (version 2; include/uapi/linux/posix_acl_xattr.h).
func acl(b []byte) ([]byte, error) {
	const user, group, none = 2, 8, 1<<32 - 1
	if len(b) < 4 || le.Uint32(b) != 1 {
		return nil, damaged("an access control list is of no known version")
	}
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, damaged("an access control list is cut off")
		}
		tag, id := le.Uint16(b), uint32(none)
		out = append(out, b[:4]...)
		b = b[4:]
		if tag == user || tag == group {
			if len(b) < 4 {
				return nil, damaged("an access control list is cut off")
			}
			id, b = le.Uint32(b), b[4:]
		}
		out = binary.LittleEndian.AppendUint32(out, id)
	}
	return out, nil
}
