package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// types are all that the file is made of, found from Config.
var types = func() (all []reflect.Type) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		all = append(all, typ)
		for i := range typ.NumField() {
			if f := typ.Field(i); f.IsExported() && f.Tag.Get("yaml") != "-" {
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
	return all
}()

// The page for people has each key, and its example works.
func TestDescribed(t *testing.T) {
	b, err := os.ReadFile("../../../docs/formats/config.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, typ := range types {
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

// The file that the package installs shows every key, with a value that works.
func TestInstalledFile(t *testing.T) {
	b, err := os.ReadFile("../../../build/debian/mimeod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f := filepath.Join(t.TempDir(), "mimeod.yaml")
	write := func(text string) Config {
		t.Helper()
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := Load(f)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := new(Config).Complete(); err != nil {
		t.Fatal(err)
	}
	plain := write(string(b))
	if plain.File() != f {
		t.Errorf("as it is installed it is the file %q", plain.File())
	}
	if err := plain.Complete(); err != nil || len(plain.Interfaces) != 0 {
		t.Errorf("as it is installed: %+v, %v", plain, err)
	}
	text := regexp.MustCompile(`(?m)^#(\w|  )`).ReplaceAllString(string(b), "$1")
	all := write(text)
	all.Power.Exec, all.Hooks.Web = nil, nil // what they name is not there
	all.S3 = S3{}                            // the store is a folder
	all.StoreKey, all.Copy = "", Copy{}      // by default there is none
	if err := all.Complete(); err != nil {
		t.Fatalf("with all settings: %v", err)
	}
	for _, typ := range types {
		for i := range typ.NumField() {
			if key := typ.Field(i).Tag.Get("yaml"); key != "" && key != "-" && !regexp.MustCompile(`(?m)^[ -]*`+key+`:`).MatchString(text) {
				t.Errorf("build/debian/mimeod.yaml does not show %s", key)
			}
		}
	}
	plain.Interfaces, all.Interfaces = nil, nil
	all.Accept, all.Trust = nil, nil
	plain.Agent, all.Agent = "", ""
	all.Limits = plain.Limits // their defaults are the job engine's
	plain.file, plain.tree, all.file, all.tree = "", nil, "", nil
	if !reflect.DeepEqual(plain, all) {
		t.Errorf("what it shows is not what holds without it:\n%+v\n%+v", all, plain)
	}
}
