package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The page for people has each key, and its example works.
func TestDescribed(t *testing.T) {
	b, err := os.ReadFile("../../../docs/formats/config.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, typ := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[Interface](), reflect.TypeFor[Network](), reflect.TypeFor[Limits](), reflect.TypeFor[Power](), reflect.TypeFor[Command](), reflect.TypeFor[Jobs](), reflect.TypeFor[Console]()} {
		for i := range typ.NumField() {
			if key := typ.Field(i).Tag.Get("yaml"); key != "" && key != "-" && !strings.Contains(page, "\n| `"+key+"` |") {
				t.Errorf("docs/formats/config.md has no %s", key)
			}
		}
	}
	_, example, ok := strings.Cut(page, "```yaml\n")
	example, _, ok2 := strings.Cut(example, "```")
	if !ok || !ok2 {
		t.Fatal("no example")
	}
	f := filepath.Join(t.TempDir(), "example.yaml")
	if err := os.WriteFile(f, []byte(example), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(f)
	if err == nil {
		err = c.Complete()
	}
	if err != nil || len(c.Interfaces) != 2 {
		t.Errorf("the example: %v", err)
	}
}
