package ntfs

import (
	"bytes"
	"fmt"
)

const (
	logClean    = 0x2    // flag of the restart area
	logNobody   = 0xffff // no client has the log open
	logVersion2 = 2      // of Windows 8 and later while mounted; a shutdown makes it 1.1
	logPageMax  = 64 << 10
)

// restart is a restart page of $LogFile. There are two, at the start of the log and one page later.
type restart struct {
	lsn   uint64
	open  bool
	major int16
	page  int64 // bytes
}

// readLog tells whether Windows has something in $LogFile that is not yet in its place. Then the map on the disk may be
// behind, and the log is Windows' alone to replay.
func (v *volume) readLog() error {
	s, err := v.openFile(recLog, "$logfile")
	if err != nil {
		return err
	}
	b := make([]byte, min(s.size, 2*logPageMax))
	if err := s.read(b, 0); err != nil {
		return fmt.Errorf("read $LogFile: %w", err)
	}
	// Drivers of other systems empty it.
	if len(bytes.TrimLeft(b, "\xff")) == 0 {
		return nil
	}
	last, err := parseRestart(b)
	if err != nil {
		return fmt.Errorf("$LogFile: the first restart page: %w", err)
	}
	// They are written in turns. The newer one counts, so both must be good to tell which that is.
	second, err := parseRestart(b[last.page:])
	if err != nil {
		return fmt.Errorf("$LogFile: the second restart page: %w", err)
	}
	if second.lsn == last.lsn {
		second.open = second.open || last.open
	}
	if second.lsn >= last.lsn {
		last = second
	}
	switch {
	case last.major >= logVersion2:
		return damaged("Windows did not let go of it: it is hibernated, was shut down with fast startup, or crashed; " +
			"start it and shut it down with 'shutdown /s /f /t 0'")
	case last.open:
		return damaged("Windows was not shut down cleanly, its log must be replayed: start it and shut it down with 'shutdown /s /f /t 0'")
	}
	return nil
}

// parseRestart reads the restart page at the start of b.
func parseRestart(b []byte) (restart, error) {
	if len(b) < 512 {
		return restart{}, damaged("it is too short")
	}
	chkdsk := string(b[:4]) == "CHKD"
	if string(b[:4]) != "RSTR" && !chkdsk {
		return restart{}, damaged("it starts with %q", b[:4])
	}
	page := le.Uint32(b[0x10:])
	if page < 512 || page > logPageMax || page&(page-1) != 0 || int(page) > len(b) {
		return restart{}, damaged("it has %d bytes", page)
	}
	b = bytes.Clone(b[:page])
	if err := fixup(b); err != nil {
		return restart{}, err
	}
	off := int(le.Uint16(b[0x18:]))
	if off < 0x1e || off&7 != 0 || off+0x30 > len(b) {
		return restart{}, damaged("its restart area is at %d", off)
	}
	area := b[off:]
	r := restart{lsn: le.Uint64(area), major: int16(le.Uint16(b[0x1c:])), page: int64(page)}
	if chkdsk {
		r.lsn = le.Uint64(b[8:])
	}
	r.open = le.Uint16(area[0xc:]) != logNobody && le.Uint16(area[0xe:])&logClean == 0
	return r, nil
}
