package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	f := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(f)
	if err == nil {
		err = c.Complete()
	}
	return c, err
}

func TestDefaults(t *testing.T) {
	c, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.State != "/var/lib/mimeo" || c.Store != "dir:/var/lib/mimeo/store" || c.HTTPS != ":4443" || c.Power.Parallel != 200 || c.Power.Stagger != 10 {
		t.Errorf("defaults are %+v", c)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "missing.yaml")); err == nil {
		t.Error("a file that was named and is missing is no error")
	}
}

func TestFile(t *testing.T) {
	c, err := load(t, "state: /srv/m\ninterfaces:\n- name: eth1\n  dhcp: proxy\n- name: eth2\n  pool: [10.0.0.5-10.0.0.9]\nlimits:\n  netboot: 90s\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Interfaces[0].DHCP != "proxy" || c.Interfaces[1].DHCP != "full" || time.Duration(c.Limits.Netboot) != 90*time.Second {
		t.Errorf("read %+v", c)
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	for text, want := range map[string][]string{
		"stat: /x\n":                  {"c.yaml", "stat", "1"},
		"log: text\nhttp: nonsense\n": {"c.yaml:2: http: "},
		"http: :80x\n":                {"c.yaml:1: http: ", "PORT"},
		"http: :99999\n":              {"c.yaml:1: http: "},
		"nfs: :4443\n":                {"https", ":4443", "too"},
		"store: s3:bucket\n":          {"c.yaml:1: store: "},
		"store: s3://images/a\ns3:\n  cache: 1MiB\n":                                       {"c.yaml:3: s3.cache: ", "64 MiB"},
		"copy:\n  to: dir:x\n":                                                             {"c.yaml:2: copy.to: ", "ABSOLUTE"},
		"copy:\n  to: dir:/var/lib/mimeo/store\n":                                          {"c.yaml:2: copy.to: ", "itself"},
		"s3:\n  region: x\n":                                                               {"c.yaml:2: s3: ", "of no use"},
		"store: s3://images/a\ns3:\n  access_key: x\n":                                     {"c.yaml:1: store: ", "one of them is missing"},
		"store: dir:relative\n":                                                            {"c.yaml:1: store: ", "ABSOLUTE"},
		"interfaces:\n- dhcp: full\n":                                                      {"c.yaml:2: interfaces[0].name: is missing"},
		"interfaces:\n- name: a\n  dhcp: x\n":                                              {"c.yaml:3: interfaces[0].dhcp: "},
		"interfaces:\n- name: a\n  dhcp: x\n- name: b\n":                                   {"c.yaml:3: interfaces[0].dhcp: "},
		"interfaces:\n- name: a\n- name: a\n":                                              {"c.yaml:3: interfaces[1].name: ", "twice"},
		"interfaces:\n- name: a\n  pool: [10.0.0.9]\n":                                     {"c.yaml:3: interfaces[0].pool[0]: ", "FROM-TO"},
		"interfaces:\n- name: a\n  pool: [10.0.0.9-10.0.0.1]\n":                            {"c.yaml:3: ", "FROM-TO"},
		"interfaces:\n- name: a\n  gateway: x\n":                                           {"c.yaml:3: ", "no IPv4"},
		"interfaces:\n- name: a\n  gateway: fe80::1\n":                                     {"c.yaml:3: ", "no IPv4"},
		"interfaces:\n- name: a\n  dns:\n  - 10.0.0.1\n  - y\n":                            {"c.yaml:5: interfaces[0].dns[1]: "},
		"interfaces:\n- name: a\n  ra: x\n":                                                {"c.yaml:3: interfaces[0].ra: "},
		"interfaces:\n- name: a\n  probe: x\n":                                             {"c.yaml:3: interfaces[0].probe: "},
		"interfaces:\n- name: a\n  reservations:\n  - mac: x\n    ip: 10.0.0.1\n":          {"c.yaml:4: interfaces[0].reservations[0].mac: "},
		"interfaces:\n- name: a\n  reservations:\n  - mac: 52:54:00:00:00:01\n    ip: x\n": {"c.yaml:5: interfaces[0].reservations[0].ip: "},
		"interfaces:\n- name: a\n  reservations:\n  - {mac: 52:54:00:00:00:01, ip: 10.0.0.1}\n  - {mac: 52-54-00-00-00-01, ip: 10.0.0.2}\n": {"c.yaml:5: interfaces[0].reservations[1].mac: ", "twice"},
		"interfaces:\n- name: a\n  dhcp: proxy\n  reservations:\n  - {mac: 52:54:00:00:00:01, ip: 10.0.0.1}\n":                              {"interfaces[0].reservations: ", "proxy"},
		"interfaces:\n- name: a\n  discovery: x\n":                                                              {"c.yaml:3: interfaces[0].discovery: "},
		"interfaces:\n- name: a\n  dhcp: off\n  discovery: on\n":                                                {"c.yaml:4: interfaces[0].discovery: "},
		"interfaces:\n- name: a\n  dhcp: proxy\n  lease: 1h\n":                                                  {"c.yaml:4: interfaces[0].lease: ", "proxy"},
		"interfaces:\n- name: a\n  domain: a b\n":                                                               {"c.yaml:3: interfaces[0].domain: "},
		"interfaces:\n- name: a\n  networks:\n  - pool: [10.0.0.1-10.0.0.2]\n":                                  {"c.yaml:4: interfaces[0].networks[0].network: is missing"},
		"interfaces:\n- name: a\n  networks:\n  - network: 10.8.0.5/16\n":                                       {"c.yaml:4: ", "want 10.8.0.0/16"},
		"interfaces:\n- name: a\n  networks:\n  - network: fe80::/64\n":                                         {"c.yaml:4: ", "IPv4 network"},
		"interfaces:\n- name: a\n  networks:\n  - network: 10.8.0.0/16\n  - network: 10.8.4.0/24\n":             {"c.yaml:5: interfaces[0].networks[1].network: ", "overlap"},
		"interfaces:\n- name: a\n  networks:\n  - network: 10.8.0.0/16\n    gateway: 10.9.0.1\n":                {"c.yaml:5: interfaces[0].networks[0].gateway: ", "not in"},
		"interfaces:\n- name: a\n  networks:\n  - network: 10.8.0.0/16\n    pool: [10.8.0.9-10.9.0.1]\n":        {"c.yaml:5: interfaces[0].networks[0].pool[0]: ", "not in"},
		"interfaces:\n- name: a\n  dhcp: proxy\n  networks:\n  - network: 10.8.0.0/16\n    gateway: 10.8.0.1\n": {"c.yaml:6: interfaces[0].networks[0].gateway: ", "proxy"},
		"limits:\n  netboot: soon\n":                                                                            {"c.yaml", "90s"},
		"limits:\n  netboot: -3s\n":                                                                             {"c.yaml", "90s"},
		"power:\n  parallel: -1\n":                                                                              {"c.yaml:2: power.parallel: "},
		"limits:\n  netboot: off\n":                                                                             {"c.yaml", "90s"},
		"history:\n  keep: 12h\n":                                                                               {"c.yaml:2: history.keep: "},
		"history:\n  keep: 90dd\n":                                                                              {`"90dd": want something like`},
		"history:\n  jobs: -1\n":                                                                                {"c.yaml:2: history.jobs: "},
		"jobs:\n  max_active: 20\n  max_deploys: -1\n":                                                          {"c.yaml:3: jobs.max_deploys: "},
		"log: loud\n": {"c.yaml:1: log: "},
		"log: [\n":    {"c.yaml"},
	} {
		_, err := load(t, text)
		if err == nil {
			t.Errorf("%q is taken", text)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: error %q does not say %q", text, err, w)
			}
		}
	}
}

func TestJobs(t *testing.T) {
	c, err := load(t, "limits:\n  soft_off: off\njobs:\n  max_active: 20\n  max_captures: 2\n")
	if err != nil || c.Limits.SoftOff >= 0 || c.Jobs != (Jobs{MaxActive: 20, MaxCaptures: 2}) {
		t.Errorf("%+v, %v", c, err)
	}
	if err := c.FromEnv([]string{"MIMEOD_LIMITS_SOFT_OFF=30s", "MIMEOD_JOBS_MAX_DEPLOYS=7"}); err != nil || time.Duration(c.Limits.SoftOff) != 30*time.Second || c.Jobs.MaxDeploys != 7 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestOnlyComments(t *testing.T) {
	if c, err := load(t, "# nothing yet\n"); err != nil || c.HTTP != ":4480" {
		t.Errorf("%+v, %v", c, err)
	}
}

// Flags go before the environment, which goes before the file; errors name what counted.
func TestPrecedence(t *testing.T) {
	f := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(f, []byte("http: bad\nhttps: :1111\ntftp: :2222\nlimits:\n  power: 5s\ninterfaces:\n- name: old\n  dhcp: bad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(f)
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"HOME=/x", EnvFile + "=" + f, "MIMEOD_HTTP=:3333", "MIMEOD_HTTPS=worse", "MIMEOD_LIMITS_AGENT_SILENCE=7s", "MIMEOD_POWER_PARALLEL=3", "MIMEOD_INTERFACES=eth1, eth2=proxy", "MIMEOD_LOG="}
	if err := c.FromEnv(env); err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(); err == nil || !strings.HasPrefix(err.Error(), "MIMEOD_HTTPS: https: ") {
		t.Errorf("%v", err)
	}
	if err := c.Set("https", ":4444", "--https"); err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(); err != nil {
		t.Fatal(err)
	}
	if c.HTTP != ":3333" || c.HTTPS != ":4444" || c.TFTP != ":2222" || c.Log != "text" || c.Power.Parallel != 3 || time.Duration(c.Limits.AgentSilence) != 7*time.Second || time.Duration(c.Limits.Power) != 5*time.Second {
		t.Errorf("%+v", c)
	}
	if len(c.Interfaces) != 2 || c.Interfaces[0].Name != "eth1" || c.Interfaces[0].DHCP != "full" || c.Interfaces[1].Name != "eth2" || c.Interfaces[1].DHCP != "proxy" {
		t.Errorf("%+v", c.Interfaces)
	}
	if err := c.Set("interfaces", "eth1=no", "--interface"); err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(); err == nil || !strings.HasPrefix(err.Error(), "--interface: interfaces[0].dhcp: ") {
		t.Errorf("%v", err)
	}
	for _, e := range []string{"MIMEOD_HTP=:1", "MIMEOD_LIMITS_POWER=soon", "MIMEOD_POWER_PARALLEL=many"} {
		if err := c.FromEnv([]string{e}); err == nil || !strings.Contains(err.Error(), strings.Split(e, "=")[0]) {
			t.Errorf("%s: %v", e, err)
		}
	}
	if err := c.Set("colour", "red", "--colour"); err == nil {
		t.Error("any key can be set")
	}
}

// Each key of the file but those of an interface, a program, a receiver, a rule and a trusted key can be set from outside.
func TestAllKeysCanBeSet(t *testing.T) {
	var c Config
	have := c.setters()
	for _, typ := range []struct {
		t      reflect.Type
		prefix string
	}{{reflect.TypeFor[Config](), ""}, {reflect.TypeFor[S3](), "s3."}, {reflect.TypeFor[Copy](), "copy."}, {reflect.TypeFor[Limits](), "limits."}, {reflect.TypeFor[Jobs](), "jobs."}, {reflect.TypeFor[History](), "history."}, {reflect.TypeFor[Power](), "power."}, {reflect.TypeFor[Console](), "console."}, {reflect.TypeFor[Hooks](), "hooks."}} {
		for i := range typ.t.NumField() {
			key := typ.t.Field(i).Tag.Get("yaml")
			if key != "" && key != "-" && key != "s3" && key != "copy" && key != "console" && key != "hooks" && key != "web" && key != "accept" && key != "trust" && key != "limits" && typ.prefix+key != "jobs" && key != "history" && key != "power" && key != "exec" && have[typ.prefix+key] == nil {
				t.Errorf("%s%s cannot be set", typ.prefix, key)
			}
		}
	}
}

// A program that switches nodes must be one, and nobody else's.
func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	good, open, text := filepath.Join(dir, "good"), filepath.Join(dir, "open"), filepath.Join(dir, "text")
	for name, mode := range map[string]os.FileMode{good: 0o755, open: 0o777, text: 0o644} {
		if err := errors.Join(os.WriteFile(name, nil, mode), os.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
	}
	for run, want := range map[string]string{"[" + good + ", --now]": "", "[" + open + "]": "can be written by anybody", "[" + text + "]": "is no program", "[" + dir + "/none]": "no such file", "[good]": "absolute path", "[]": "is missing"} {
		f := filepath.Join(dir, "c.yaml")
		if err := os.WriteFile(f, []byte("power:\n  exec:\n    pdu:\n      run: "+run+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := Load(f)
		if err == nil {
			err = c.Complete()
		}
		switch {
		case want == "" && (err != nil || time.Duration(c.Power.Exec["pdu"].Timeout) != 30*time.Second):
			t.Errorf("%s: %v, %+v", run, err, c.Power)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "power.exec.pdu.run")):
			t.Errorf("%s: %v, want %q", run, err, want)
		}
	}
}

func TestParseInterface(t *testing.T) {
	if f := ParseInterface("br0=proxy"); f.Name != "br0" || f.DHCP != "proxy" {
		t.Errorf("%+v", f)
	}
	if f := ParseInterface("br0"); f.DHCP != "full" {
		t.Errorf("%+v", f)
	}
}
