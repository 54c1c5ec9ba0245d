package vbmc

import "time"

func (s *ipmiServer) setBootOption(data []byte) byte {
	if len(data) < 1 {
		return codeLength
	}
	if len(data) == 1 {
		return codeOK // only the parameter's own valid bit
	}
	switch data[0] & 0x7f {
	case 0: // set in progress: who finds it set is told so
		start := data[1]&3 == 1
		if start && s.progress {
			return codeInProgress
		}
		s.progress = start
		return codeOK
	case 3: // valid bit clearing
		s.clear = data[1] & 0x1f
		return codeOK
	case 4: // info acknowledge: mask, bits
		if len(data) < 3 {
			return codeLength
		}
		s.ack = s.ack&^data[1] | data[2]&data[1]
		return codeOK
	case 5: // boot flags
		if len(data) < 6 {
			return codeLength
		}
		device, ok := map[byte]string{0: "", 1: "pxe", 2: "disk", 6: "setup"}[data[2]>>2&0xf]
		if !ok {
			return codeParameter
		}
		if data[1]&0x80 == 0 {
			device = ""
		}
		s.expire(device)
		if s.bmc.setBoot(device, data[1]&0x40 == 0, data[1]&0x20 != 0) != nil {
			return codeUnspecific
		}
		return codeOK
	}
	return codeNoBootParm
}

// expire clears the boot flags after a while, unless the "do not clear" bit for that is set (28.12, parameter 3).
func (s *ipmiServer) expire(device string) {
	b := s.bmc
	if b.Faults.ClearAfter == 0 || device == "" || s.clear&0x08 != 0 {
		return
	}
	n := b.commands.Load()
	time.AfterFunc(b.Faults.ClearAfter, func() {
		if b.commands.Load() == n {
			b.setBoot("", false, false)
		}
	})
}

func (s *ipmiServer) bootOption(data []byte) (byte, []byte) {
	if len(data) < 3 {
		return codeLength, nil
	}
	head := []byte{0x01, data[0] & 0x7f}
	switch data[0] & 0x7f {
	case 0:
		if s.progress {
			return codeOK, append(head, 1)
		}
		return codeOK, append(head, 0)
	case 3:
		return codeOK, append(head, s.clear)
	case 4:
		return codeOK, append(head, 0, s.ack)
	case 5:
		b := s.bmc
		b.mu.Lock()
		defer b.mu.Unlock()
		var one, two byte
		if b.device != "" {
			one = 0x80
			two = map[string]byte{"pxe": 1, "disk": 2, "setup": 6}[b.device] << 2
		}
		if !b.once && b.device != "" {
			one |= 0x40
		}
		if b.uefi {
			one |= 0x20
		}
		return codeOK, append(head, one, two, 0, 0, 0)
	}
	return codeNoBootParm, nil
}
