package xcat

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestExpressions checks expressions against the values that xCAT's own code gives for them.
func TestExpressions(t *testing.T) {
	text, err := os.ReadFile("testdata/expressions.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if len(f) != 3 || !IsExpression(f[1]) {
			t.Fatalf("%q: want NODE, EXPRESSION, VALUE", line)
		}
		n++
		got, err := evaluate(f[0], f[1])
		if want, isError := strings.CutPrefix(f[2], "!"); isError {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s = %q, %v; want an error with %q", f[0], f[1], got, err, want)
			}
		} else if err != nil || got != f[2] {
			t.Errorf("%s %s = %q, %v; want %q", f[0], f[1], got, err, f[2])
		}
	}
	if n < 70 {
		t.Errorf("%d expressions are too few", n)
	}
}

func evaluate(node, cell string) (string, error) {
	e, err := Compile(cell)
	if err != nil {
		return "", err
	}
	return e.Value(node)
}

// TestIsExpression has values that look like expressions, and those that xCAT takes for some.
func TestIsExpression(t *testing.T) {
	for cell, want := range map[string]bool{
		"/a/b/": true, "|a|b|": true, "|b|": true, "||": true, "//x/": true,
		"": false, "/": false, "|": false, "a": false, "/install/images": false, "/a/b/c/": false, "a|b|": false, "00:00:00:00:00:01!n1|00:00:00:00:00:02!*NOIP*": false,
	} {
		if got := IsExpression(cell); got != want {
			t.Errorf("IsExpression(%q) = %v", cell, got)
		}
	}
}

// perl works out lines of PATTERN, NAME, CALCULATION: whether the pattern matches, what $1 and $2 are, and the value of
// the calculation under "use integer".
const perl = `while(<STDIN>){ chomp; my($p,$n,$c)=split /\t/; my $re=eval{qr/$p/}; if($@){print "died\n";next}
if($n!~$re){print "none\n";next} my $v=eval("use integer;($c)"); $v="died" if $@; print join("\t",$-[0],$+[0],defined $1?$1:"-",defined $2?$2:"-",$v),"\n"; }`

// TestPerl makes patterns and calculations at random. Whatever is taken here must be for Perl what it is here.
func TestPerl(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	pick := func(s ...string) string { return s[r.Intn(len(s))] }
	var calc func(depth int) string
	calc = func(depth int) string {
		if depth == 0 {
			return pick("$1", "$2", "3", "16", "0", "'07'", "100", "ord('a')")
		}
		a, b := calc(depth-1), calc(depth-1)
		switch r.Intn(5) {
		case 0:
			return a + pick("+", "-", "*", " / ", "%", ".", "&&", "||") + b
		case 1:
			return "(" + a + ")"
		case 2:
			return fmt.Sprintf("sprintf('%s',%s)", pick("%02d", "%d", "%3d", "%x", "%-4d", "%s", "%05d"), a)
		case 3:
			return a + pick("<", ">", "<=", ">=", "==", "!=") + b + "?" + a + ":" + b
		}
		return pick("-", "!") + a
	}
	pieces := []string{"n", "r", `\d`, `\d+`, `\D*`, `(\d*)`, `(\d)`, "[a-z]", "[^n]+", "[]n]", "(n|r1)?", "(?:a|ab)*", "{2}", "{1,2}", "*", "+", "?", "*?", "|", "^", "$",
		`\z`, `\b`, `\w+`, "(", ")", ".*", "(.*?)", `\-`, "0*", `[\d-]+`, "[[:alpha:]]", "(?i)N", "(?i:R)", `\A`, "x{", "{,2}", `\s`, `\.`}
	var in, want strings.Builder
	taken := 0
	for range 20000 {
		pattern := pick(`n(\d+)`, `\D+(\d+)\D+(\d+)`, `[\D0]*(\d+).*$`)
		if r.Intn(2) == 0 {
			pattern = ""
			for range 1 + r.Intn(6) {
				pattern += pick(pieces...)
			}
		}
		name, c := pick("n1", "n07", "n012", "r1n2", "r02n14", "node-3", "compute", "a0b0c10", "n00", "n100-ib"), calc(r.Intn(4))
		re, err := compilePerl(pattern)
		if err != nil {
			continue
		}
		k, err := parseCalculation(c)
		if err != nil {
			continue
		}
		taken++
		fmt.Fprintf(&in, "%s\t%s\t%s\n", pattern, name, c)
		m := re.FindStringSubmatchIndex(name)
		if m == nil {
			want.WriteString("none\n")
			continue
		}
		group := func(i int) string {
			if 2*i >= len(m) || m[2*i] < 0 {
				return "-"
			}
			return name[m[2*i]:m[2*i+1]]
		}
		v, err := k.value(name, m)
		if err != nil {
			v = "*" // not taken: nothing is said of the value
		}
		fmt.Fprintf(&want, "%d\t%d\t%s\t%s\t%s\n", m[0], m[1], group(1), group(2), v)
	}
	cmd := exec.Command("perl", "-e", perl)
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("perl: %v", err)
	}
	asked, ours, theirs := strings.Split(in.String(), "\n"), strings.Split(want.String(), "\n"), strings.Split(string(out), "\n")
	if len(ours) != len(theirs) || taken < 4000 {
		t.Fatalf("%d lines from perl for %d of ours, %d taken", len(theirs), len(ours), taken)
	}
	bad := 0
	for i := range ours {
		a, b := ours[i], theirs[i]
		if s, ok := strings.CutSuffix(a, "*"); ok {
			a, b = s, b[:strings.LastIndex(b, "\t")+1]
		}
		if a != b {
			if bad++; bad < 20 {
				t.Errorf("%s: %q, and perl says %q", asked[i], a, b)
			}
		}
	}
}

func FuzzExpression(f *testing.F) {
	f.Add("n07", `|n(\d+)|10.0.0.($1+32)|`)
	f.Add("n07", `/\z/-bmc/`)
	f.Add("row1-col2", `|row(\d+)-col(\d+)|(skip(dim2idx($1, 4, $2),'3:2'))|`)
	f.Add("n1", `|(sprintf('%02d',ipadd(10,0,0,1,$1,1,1))?-1:!(2)&&3||lc("A"))|`)
	f.Fuzz(func(t *testing.T, node, cell string) {
		if len(node) > 63 || len(cell) > 500 || !IsExpression(cell) {
			return
		}
		e, err := Compile(cell)
		if err != nil {
			return
		}
		v, err := e.Value(node)
		if again, err2 := e.Value(node); v != again || (err == nil) != (err2 == nil) {
			t.Errorf("%q of %q: %q, %v, then %q, %v", cell, node, v, err, again, err2)
		}
	})
}
