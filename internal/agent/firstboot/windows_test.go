package firstboot

import (
	"encoding/xml"
	"strings"
	"testing"
)

func TestAnswers(t *testing.T) {
	env := map[string]string{"HOSTNAME": "n07.rack", "NODE": "n07", "LABEL_OU": `OU="R&D",<DC>`}
	got, err := Answers([]byte(`<a><ComputerName>*</ComputerName><ComputerName></ComputerName>${NODE}:${LABEL_OU}:$NODE</a>`), env)
	if want := `<a><ComputerName>n07</ComputerName><ComputerName>n07</ComputerName>n07:OU=&#34;R&amp;D&#34;,&lt;DC&gt;:$NODE</a>`; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	for text, want := range map[string]string{
		"<a>${NOPE}</a>":  "${NOPE}",
		"<a>\xff</a>":     "UTF-8",
		"<a><b></a>":      "no XML",
		"<ComputerName/>": "",
	} {
		if _, err := Answers([]byte(text), env); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, host := range []string{"", "12345", "sixteen-letters-", "sixteen-letters0", "n_7", "-n"} {
		if _, err := Answers([]byte("<a><ComputerName>x</ComputerName></a>"), map[string]string{"HOSTNAME": host}); err == nil {
			t.Errorf("%q is a name of a Windows computer", host)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte("<a><ComputerName>*</ComputerName>${NODE}</a>"), "n07", "R&D")
	f.Fuzz(func(t *testing.T, text []byte, host, value string) {
		out, err := Answers(text, map[string]string{"HOSTNAME": host, "NODE": value})
		var any struct{}
		if err == nil && xml.Unmarshal(out, &any) != nil {
			t.Errorf("%q is no XML", out)
		}
	})
}
