package erase

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Service actions of SANITIZE (SBC-4 section 5.35).
const (
	sanitizeBlock  = 2
	sanitizeCrypto = 3
)

// sanitizeCDB makes the command. The disk answers at once and goes on by itself.
func sanitizeCDB(action byte) []byte {
	const immediate, unrestricted = 0x80, 0x20
	cdb := make([]byte, 10)
	cdb[0], cdb[1] = 0x48, immediate|unrestricted|action
	return cdb
}

// scsiSupports asks whether the disk has a service action of SANITIZE (REPORT SUPPORTED OPERATION CODES, SPC-4 section
// 6.35).
func (d *Disk) scsiSupports(action byte) (bool, error) {
	cdb := make([]byte, 12)
	cdb[0], cdb[1], cdb[2], cdb[3], cdb[5], cdb[9] = 0xa3, 0x0c, 0x02, 0x48, action, 64
	b := make([]byte, 64)
	if err := d.sg(cdb, sgIn, b, 20*time.Second); err != nil {
		return false, err
	}
	return b[1]&7 == 3 || b[1]&7 == 5, nil
}

func (d *Disk) scsi(m Method) (way, error) {
	action, what := byte(sanitizeBlock), "SCSI SANITIZE, block erase"
	if m == Crypto {
		action, what = sanitizeCrypto, "SCSI SANITIZE, cryptographic erase"
	}
	ok, err := d.scsiSupports(action)
	var sense *senseError
	switch {
	case errors.As(err, &sense):
		return way{}, fmt.Errorf("%s: the disk does not say which commands it has: %w", m, err)
	case err != nil:
		return way{}, fmt.Errorf("%s: ask the disk which commands it has: %w", m, err)
	case !ok:
		return way{}, fmt.Errorf("%s: the disk does not have %s", m, what)
	}
	return way{method: m, what: what, run: func(_ context.Context, p *pace) error { return d.scsiSanitize(p, action) }}, nil
}

// scsiSanitize starts the erasure and waits until the disk is ready again.
func (d *Disk) scsiSanitize(p *pace, action byte) error {
	if err := d.sg(sanitizeCDB(action), sgNone, nil, time.Minute); err != nil {
		return err
	}
	for {
		err := d.sg(make([]byte, 6), sgNone, nil, time.Minute) // TEST UNIT READY
		var s *senseError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &s):
			return fmt.Errorf("ask how far it is: %w", err)
		case s.key == 6: // unit attention: ask again
		case s.key == 2 && s.asc == 0x04: // not ready; 1b: sanitize in progress
			p.at(max(0, d.Size()/65536*int64(s.progress)))
			time.Sleep(time.Second)
		default:
			return err
		}
	}
}

// scsiZeros reads whether unmapped blocks read as zeros (READ CAPACITY (16), SBC-4 section 5.21).
func (d *Disk) scsiZeros() (string, error) {
	cdb := make([]byte, 16)
	cdb[0], cdb[1], cdb[13] = 0x9e, 0x10, 32
	b := make([]byte, 32)
	if err := d.sg(cdb, sgIn, b, 20*time.Second); err != nil {
		return "", fmt.Errorf("ask the disk what unmapped blocks read as: %w", err)
	}
	const lbpme, lbprz = 0x80, 0x40
	if b[14]&lbpme == 0 || b[14]&lbprz == 0 {
		return "", errors.New("the disk does not say that unmapped blocks read as zeros (LBPRZ)")
	}
	return "the disk says that they read as zeros (SCSI LBPRZ)", nil
}
