package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// size writes bytes as people read them: powers of 1024, three digits.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 999.5 && unit < 4 {
		f /= 1024
		unit++
	}
	s := fmt.Sprintf("%.2f", f)
	if len(s) > 4 {
		s = strings.TrimSuffix(s[:4], ".")
	}
	return s + " " + []string{"KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
}

// span writes a duration shortly: 850 ms, 12 s, 4 min 05 s, 3 h 10 min.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()+0.5))
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}

func ms(n int64) string { return span(time.Duration(n) * time.Millisecond) }

// ago says how long a moment is past.
func ago(t time.Time) string {
	if d := time.Since(t); d < 48*time.Hour {
		return span(d.Truncate(time.Second)) + " ago"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// dash stands for an empty cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// table writes rows in columns; the first row is the head.
func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	tw.Flush()
}
