package erase

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Commands of ACS-3 section 7.
const (
	ataIdentify      = 0xec
	ataSetPassword   = 0xf1
	ataUnlock        = 0xf2
	ataErasePrepare  = 0xf3
	ataEraseUnit     = 0xf4
	ataDisablePasswd = 0xf6
)

// password protects the disk from its erasure on, as ATA wants it; the erasure takes it away again. A node that loses
// its power meanwhile finds its disk locked, and the next try opens it with this.
const password = "mimeo"

// Protocols of ATA PASS-THROUGH (SAT-3 section 12.2.2).
const (
	ataNonData = 3
	ataPIOIn   = 4
	ataPIOOut  = 5
)

// passThrough is the SCSI command that carries an ATA command with at most one sector of data.
func passThrough(protocol, command byte) []byte {
	cdb := make([]byte, 16)
	cdb[0], cdb[1], cdb[14] = 0x85, protocol<<1, command
	switch protocol {
	case ataPIOIn:
		cdb[2], cdb[6] = 0x0e, 1 // from the disk, in blocks, as many as count says
	case ataPIOOut:
		cdb[2], cdb[6] = 0x06, 1
	}
	return cdb
}

func (d *Disk) ataCommand(protocol, command byte, data []byte, limit time.Duration) error {
	direction := int32(sgNone)
	switch protocol {
	case ataPIOIn:
		direction = sgIn
	case ataPIOOut:
		direction = sgOut
	}
	return d.sg(passThrough(protocol, command), direction, data, limit)
}

// ataDisk is what a disk says of itself (IDENTIFY DEVICE, ACS-3 section 7.12).
type ataDisk struct {
	supported, enabled, locked, frozen, expired, enhanced bool
	normal, better                                        time.Duration // as the disk says; 0 where it does not
	zeros                                                 bool          // trimmed blocks read as zeros, each time
}

func readIdentify(b []byte) (a ataDisk) {
	word := func(i int) uint16 { return binary.LittleEndian.Uint16(b[2*i:]) }
	a.supported = word(82)&(1<<1) != 0 && word(128)&1 != 0
	s := word(128)
	a.enabled, a.locked, a.frozen, a.expired, a.enhanced = s&2 != 0, s&4 != 0, s&8 != 0, s&16 != 0, s&32 != 0
	a.normal, a.better = eraseTime(word(89)), eraseTime(word(90))
	a.zeros = word(169)&1 != 0 && word(69)&(1<<14) != 0 && word(69)&(1<<5) != 0
	return a
}

// eraseTime reads words 89 and 90: units of two minutes in the low byte, or in 15 bits where bit 15 is set.
func eraseTime(w uint16) time.Duration {
	n := w & 0xff
	if w&0x8000 != 0 {
		n = w & 0x7fff
	}
	return time.Duration(n) * 2 * time.Minute
}

func (d *Disk) ataIdentify() (ataDisk, error) {
	b := make([]byte, 512)
	if err := d.ataCommand(ataPIOIn, ataIdentify, b, 20*time.Second); err != nil {
		return ataDisk{}, fmt.Errorf("identify the disk: %w", err)
	}
	return readIdentify(b), nil
}

// refuses says why a disk cannot erase itself just now.
func (a ataDisk) refuses() error {
	switch {
	case !a.supported:
		return errors.New("secure-erase: the disk does not have the ATA security feature set")
	case a.frozen:
		return errors.New("secure-erase: the firmware has frozen the disk's security until its next power-on; switch that off in the setup, or plug the disk in later")
	case a.expired:
		return errors.New("secure-erase: somebody has tried too many passwords; the disk wants a power cycle")
	}
	return nil
}

// securityBlock is the data of a security command (ACS-3 section 7.37 and those behind it).
func securityBlock(word0 uint16) []byte {
	b := make([]byte, 512)
	binary.LittleEndian.PutUint16(b, word0)
	copy(b[2:34], password)
	return b
}

func (d *Disk) ata(m Method) (way, error) {
	if m == Crypto {
		return way{}, errors.New("crypto: no command for it is known for SATA disks; secure-erase does it on those that encrypt themselves")
	}
	a, err := d.ataIdentify()
	if err != nil {
		return way{}, fmt.Errorf("secure-erase: %w", err)
	}
	if err := a.refuses(); err != nil {
		return way{}, err
	}
	w := way{method: Secure, what: "ATA SECURITY ERASE UNIT", estimate: a.normal}
	word0 := uint16(0) // the user password, normal erasure
	if a.enhanced {
		w.what, w.estimate, word0 = "ATA SECURITY ERASE UNIT, enhanced", a.better, 2
	}
	w.run = func(_ context.Context, p *pace) error { return d.ataErase(p, a, word0, w.estimate) }
	return w, nil
}

// ataErase goes through the commands that an erasure wants in order. The disk is opened again if it fails.
func (d *Disk) ataErase(p *pace, a ataDisk, word0 uint16, estimate time.Duration) (err error) {
	const quick = 20 * time.Second
	if a.locked {
		if err := d.ataCommand(ataPIOOut, ataUnlock, securityBlock(0), quick); err != nil {
			return fmt.Errorf("the disk is locked with a password that is not ours: %w", err)
		}
	}
	if !a.enabled {
		if err := d.ataCommand(ataPIOOut, ataSetPassword, securityBlock(0), quick); err != nil {
			return fmt.Errorf("set a password, which the disk wants for it: %w", err)
		}
	}
	defer func() {
		if err != nil {
			if now, ierr := d.ataIdentify(); ierr == nil && now.enabled {
				derr := d.ataCommand(ataPIOOut, ataDisablePasswd, securityBlock(0), quick)
				if derr != nil {
					err = fmt.Errorf("%w; the disk keeps the password %q: %w", err, password, derr)
				}
			}
		}
	}()
	if err := d.ataCommand(ataNonData, ataErasePrepare, nil, quick); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	limit := max(4*estimate, 24*time.Hour)
	if err := d.patiently(p, estimate, func() error { return d.ataCommand(ataPIOOut, ataEraseUnit, securityBlock(word0), limit) }); err != nil {
		return err
	}
	now, err := d.ataIdentify()
	if err == nil && now.enabled {
		err = errors.New("the disk still wants its password, which an erasure takes away")
	}
	return err
}

// ataZeros reads whether trimmed blocks read as zeros (words 69 and 169).
func (d *Disk) ataZeros() (string, error) {
	a, err := d.ataIdentify()
	if err != nil {
		return "", err
	}
	if !a.zeros {
		return "", errors.New("the disk does not say that trimmed blocks read as zeros (DRAT and RZAT)")
	}
	return "the disk says that they read as zeros (ATA DRAT, RZAT)", nil
}
