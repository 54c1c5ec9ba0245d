package localcmd

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"mimeo/internal/cluster/storetext"
)

// meter shows how far a capture or deploy is: one live line on a terminal, a line now and then elsewhere.
type meter struct {
	w     io.Writer
	live  bool
	phase string
	since time.Time // of the phase
	last  time.Time // when a line was written
	width int       // of the live line
}

// plainEvery is the time between two lines where there is no terminal: a log should not fill up.
const plainEvery = 10 * time.Second

func newMeter(w io.Writer) *meter {
	f, ok := w.(*os.File)
	return &meter{w: w, live: ok && term.IsTerminal(int(f.Fd()))}
}

// show takes the numbers of a phase, in bytes.
func (m *meter) show(phase string, done, total int64) {
	now := time.Now()
	if phase != m.phase {
		m.phase, m.since, m.last = phase, now, now
		if !m.live {
			fmt.Fprintf(m.w, "%s\n", phase)
		}
	}
	line := m.line(now.Sub(m.since), done, total)
	switch {
	case m.live:
		pad := max(m.width-len(line), 0)
		m.width = len(line)
		fmt.Fprintf(m.w, "\r%s%s", line, strings.Repeat(" ", pad))
	case now.Sub(m.last) >= plainEvery:
		m.last = now
		fmt.Fprintln(m.w, line)
	}
}

// line is "capturing  45 %  1.2 GiB of 2.6 GiB  310 MiB/s  5 s left".
func (m *meter) line(took time.Duration, done, total int64) string {
	if total <= 0 || done <= 0 {
		return m.phase
	}
	s := fmt.Sprintf("%s %3d %%  %s of %s", m.phase, done*100/total, size(done), size(total))
	if took < time.Second {
		return s
	}
	rate := float64(done) / took.Seconds()
	s += fmt.Sprintf("  %s/s", size(int64(rate)))
	if left := total - done; left > 0 {
		s += fmt.Sprintf("  %s left", span(time.Duration(float64(left)/rate*float64(time.Second))))
	}
	return s
}

// close ends the live line.
func (m *meter) close() {
	if m.live && m.width > 0 {
		fmt.Fprintf(m.w, "\r%s\r", strings.Repeat(" ", m.width))
	}
}

func size(n int64) string { return storetext.Size(n) }

// span writes a duration shortly.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}
