package trial

import (
	"regexp"
	"strings"
	"sync"
)

// transcript takes what the guest says on its serial console, and keeps the end of it.
type transcript struct {
	mu   sync.Mutex
	text []byte
}

// keepText is how much is kept: enough for a kernel's last words.
const keepText = 64 << 10

// Write implements io.Writer.
func (s *transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, b...)
	if over := len(s.text) - keepText; over > keepText {
		s.text = append([]byte(nil), s.text[over:]...)
	}
	return len(b), nil
}

// escapes are what terminals do not show (ECMA-48, 5.4: control sequences; those of one letter; of windows' titles).
var escapes = regexp.MustCompile("\x1b\\[[0-9;?=]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(\x07|\x1b\\\\)|\x1b[()][0-9A-Z]|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f]")

// String returns the text as a person sees it.
func (s *transcript) String() string {
	s.mu.Lock()
	b := s.text[max(0, len(s.text)-keepText):]
	text := strings.ToValidUTF8(string(b), "\ufffd")
	s.mu.Unlock()
	return escapes.ReplaceAllString(text, "")
}

// tail returns the last lines, at most n bytes of them.
func tail(text string, n int) string {
	text = strings.TrimSpace(text)
	if len(text) <= n {
		return text
	}
	text = text[len(text)-n:]
	if _, after, ok := strings.Cut(text, "\n"); ok {
		return after
	}
	return strings.ToValidUTF8(text, "")
}

// Login is the prompt of a getty, at the end of what was said.
var Login = regexp.MustCompile(`(?m)[\w.-]+ login: *\z`)

// dead are what systems say that will not come up, with what it means.
var dead = []struct {
	says *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`Kernel panic - not syncing: .*`), "its kernel panicked"},
	{regexp.MustCompile(`(?m)^\s*(grub rescue>|grub>) *\z`), "its boot loader found nothing to start"},
	{regexp.MustCompile(`(?m)^\s*\(initramfs\) *\z|^\s*dracut:/# *\z|Entering emergency mode\.`), "its initrd did not find the root filesystem"},
	{regexp.MustCompile(`(?i)(give root password for maintenance|you are in emergency mode)`), "its system came up in emergency mode"},
	{regexp.MustCompile(`(?i)no bootable device|BdsDxe: No bootable option or device was found`), "its firmware found nothing to boot"},
}

// judge looks for what was waited for, and for what says that it will not come.
func judge(text string, want *regexp.Regexp) (match, why string) {
	if m := want.FindString(text); m != "" {
		return strings.TrimSpace(m), ""
	}
	for _, d := range dead {
		if m := d.says.FindString(text); m != "" {
			return "", d.why + ": " + strings.TrimSpace(m)
		}
	}
	return "", ""
}
