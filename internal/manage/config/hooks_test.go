package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestHooks(t *testing.T) {
	dir := t.TempDir()
	long, short := filepath.Join(dir, "long"), filepath.Join(dir, "short")
	for file, text := range map[string]string{long: "0123456789abcdef  \nmore\n", short: "secret\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		web  Web
		want string
	}{
		{Web{URL: "https://ops.example/x", SecretFile: long, Events: []string{"job.done"}}, ""},
		{Web{URL: "ftp://ops.example"}, "hooks.web[0].url"},
		{Web{URL: "https://"}, "hooks.web[0].url"},
		{Web{URL: "https://x", Events: []string{"job.begun"}}, "hooks.web[0].events"},
		{Web{URL: "https://x", SecretFile: long, Events: []string{"job.*", "node.discovered", "*"}}, ""},
		{Web{URL: "https://x", Events: []string{"nodes.*"}}, "hooks.web[0].events"},
		{Web{URL: "https://x", Events: []string{"["}}, "hooks.web[0].events"},
		{Web{URL: "https://x", SecretFile: short}, "hooks.web[0].secret_file"},
		{Web{URL: "https://x", SecretFile: dir + "/none"}, "hooks.web[0].secret_file"},
	} {
		c := Config{Hooks: Hooks{Web: []Web{tc.web}}}
		err := c.Complete()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.web, err, tc.want)
		}
		if err == nil && string(c.Hooks.Web[0].Secret) != "0123456789abcdef" {
			t.Errorf("the secret is %q", c.Hooks.Web[0].Secret)
		}
	}
	// Who does not say which is told of jobs that have ended, as ever.
	c := Config{Hooks: Hooks{Web: []Web{{URL: "https://x"}}}}
	if err := c.Complete(); err != nil || !slices.Equal(c.Hooks.Web[0].Events, EndEvents) || !slices.Equal(c.Hooks.Events, EndEvents) {
		t.Errorf("%+v, %v", c.Hooks, err)
	}
	c = Config{Hooks: Hooks{Events: []string{"job.begun"}}}
	if err := c.Complete(); err == nil || !strings.Contains(err.Error(), "hooks.events") {
		t.Errorf("%v", err)
	}
}
