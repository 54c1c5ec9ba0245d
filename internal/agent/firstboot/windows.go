package firstboot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"mimeo/internal/agent/postscript"
	"mimeo/internal/cluster/api"
)

// WindowsDir holds what is left in a deployed Windows, below its folder Windows.
const WindowsDir = `Setup\Scripts\mimeo-first`

// ErrNoWindows says that a volume holds no Windows.
var ErrNoWindows = errors.New("there is no folder \\Windows with a System32")

// windowsRun is the batch file that runs the programs, before and after the lines for each. The label "one" is given a program's
// file. Where one fails, a task is made that tries again when Windows starts.
const (
	windowsRun = `@echo off
rem Left by Mimeo when it deployed this system: runs the programs beside it, once each, in order. One that has succeeded is
rem deleted. The first that fails stops the rest, and runs again when Windows starts the next time. Then all this deletes itself.
setlocal
chcp 65001 >nul
cd /d "%~dp0" || exit /b 1
set "MIMEO_LOG=%SystemRoot%\Logs\mimeo-first.log"
call env.cmd
`
	windowsEnd = `schtasks /delete /f /tn mimeo-first >nul 2>&1
echo %DATE% %TIME% all is done>>"%MIMEO_LOG%"
cd /d "%SystemRoot%"
(goto) 2>nul & rmdir /s /q "%~dp0"

:failed
schtasks /create /f /tn mimeo-first /sc onstart /ru SYSTEM /tr "%~f0" >>"%MIMEO_LOG%" 2>&1
exit /b 1

:one
if not exist "%~1" exit /b 0
echo %DATE% %TIME% %~1 begins>>"%MIMEO_LOG%"
if /i "%~x1"==".ps1" (
  powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -File "%~f1" >>"%MIMEO_LOG%" 2>&1 <nul
) else (
  cmd.exe /d /c "%~f1" >>"%MIMEO_LOG%" 2>&1 <nul
)
set MIMEO_STATUS=%ERRORLEVEL%
if not "%MIMEO_STATUS%"=="0" (
  echo %DATE% %TIME% %~1 failed: exit status %MIMEO_STATUS%. It runs again when Windows starts the next time>>"%MIMEO_LOG%"
  exit /b 1
)
del /f "%~1" || exit /b 1
echo %DATE% %TIME% %~1 is done>>"%MIMEO_LOG%"
exit /b 0
`
	// windowsCall is the line in SetupComplete.cmd.
	windowsCall = `call "%SystemRoot%\Setup\Scripts\mimeo-first\run.cmd"`
)

// windowsPrograms are what Windows starts by the ends of their names.
var windowsPrograms = []string{".cmd", ".bat", ".ps1", ".exe"}

// PlaceWindows leaves programs in the Windows on the volume that is mounted at root, for the end of its setup, and an answer file,
// if there is one. An image that was generalised with sysprep goes through its setup at the first boot; for others Windows runs
// none of it. It returns what it did, for people. What a deploy before has left is removed.
func PlaceWindows(root string, list []api.Postscript, env map[string]string, unattend []byte) (done []string, err error) {
	t, err := open(root)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if _, err := t.Stat(t.fold("Windows/System32")); err != nil {
		return nil, ErrNoWindows
	}
	dir, setup := t.fold("Windows/Setup/Scripts/mimeo-first"), t.fold("Windows/Setup/Scripts/SetupComplete.cmd")
	if err := t.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := t.callOurs(setup, false); err != nil {
		return nil, err
	}
	if len(unattend) > 0 {
		text, err := Answers(unattend, env)
		if err != nil {
			return nil, err
		}
		file := t.fold("Windows/Panther/unattend.xml")
		if err := t.replace(file, text); err != nil {
			return nil, err
		}
		done = append(done, "answer file of Windows' setup written: "+backslashes(file))
	}
	if len(list) == 0 {
		return done, nil
	}
	script := windowsRun
	for i, p := range list {
		name := fmt.Sprintf("%03d.%s", i+1, postscript.FileName(p.Name))
		if !slices.Contains(windowsPrograms, strings.ToLower(path.Ext(name))) {
			return nil, fmt.Errorf("postscript %s: a name that Windows runs ends in %s", p.Name, strings.Join(windowsPrograms, ", "))
		}
		if err := t.put(path.Join(dir, name), p.Content, 0o755); err != nil {
			return nil, err
		}
		script += "call :one " + name + " || goto failed\r\n"
	}
	if err := t.put(path.Join(dir, "env.cmd"), batchEnv(env), 0o755); err != nil {
		return nil, err
	}
	if err := t.put(path.Join(dir, "run.cmd"), crlf(script+windowsEnd), 0o755); err != nil {
		return nil, err
	}
	return append(done, fmt.Sprintf("%d postscripts left for the end of Windows' setup, called by %s", len(list), backslashes(setup))), t.callOurs(setup, true)
}

// fold finds a path as Windows would, whatever the case of its parts. Parts that are not there stay as they are given.
func (t *tree) fold(name string) string {
	at := "."
	for part := range strings.SplitSeq(name, "/") {
		if d, err := t.Open(at); err == nil {
			names, _ := d.Readdirnames(-1)
			d.Close()
			if !slices.Contains(names, part) {
				if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, part) }); i >= 0 {
					part = names[i]
				}
			}
		}
		at = path.Join(at, part)
	}
	return at
}

// callOurs adds the line that calls the programs to SetupComplete.cmd, before what the image has there, or takes it away.
func (t *tree) callOurs(name string, in bool) error {
	st, err := t.Lstat(name)
	var old []byte
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Size() > 1<<20:
		return fmt.Errorf("%s is not a small file", backslashes(name))
	default:
		if old, err = t.ReadFile(name); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	if in {
		b.WriteString(windowsCall + "\r\n")
	}
	for line := range bytes.Lines(old) {
		if strings.TrimSpace(string(line)) != windowsCall {
			b.Write(line)
		}
	}
	switch {
	case bytes.Equal(b.Bytes(), old):
		return nil
	case b.Len() == 0:
		return t.Remove(name)
	}
	return t.replace(name, b.Bytes())
}

// replace writes a whole file, also where there is one, at once.
func (t *tree) replace(name string, b []byte) error {
	tmp := name + ".mimeo"
	if err := t.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := t.put(tmp, b, 0o755); err != nil {
		return err
	}
	return t.Rename(tmp, name)
}

func backslashes(name string) string { return `\` + strings.ReplaceAll(name, "/", `\`) }

func crlf(s string) []byte {
	return []byte(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n"))
}

// batchEnv makes a batch file that sets variables. What a batch file cannot say, such as a value of several lines, is left out.
func batchEnv(env map[string]string) []byte {
	var b strings.Builder
	names := make([]string, 0, len(env))
	for n := range env {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if v := env[n]; isName(n) && utf8.ValidString(v) && !strings.ContainsAny(v, "\"\r\n\x00") {
			b.WriteString("set \"" + n + "=" + strings.ReplaceAll(v, "%", "%%") + "\"\r\n")
		} else {
			b.WriteString("rem a variable is left out that a batch file cannot set\r\n")
		}
	}
	return []byte(b.String())
}

var (
	answerVariable = regexp.MustCompile(`\$\{([A-Za-z0-9_]+)\}`)
	computerName   = regexp.MustCompile(`(<ComputerName>)[^<]*(</ComputerName>)`)
	computerText   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,13}[A-Za-z0-9])?$`)
	digits         = regexp.MustCompile(`^[0-9]+$`)
)

// Answers fills in an answer file: each ${NAME} becomes that variable, and every ComputerName the first part of HOSTNAME, which
// must be a name that Windows takes (at most 15 letters, digits and hyphens, not digits alone).
func Answers(text []byte, env map[string]string) ([]byte, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("the answer file is not UTF-8")
	}
	if computerName.Match(text) {
		name, _, _ := strings.Cut(env["HOSTNAME"], ".")
		if !computerText.MatchString(name) || digits.MatchString(name) {
			return nil, fmt.Errorf("%q is no name of a Windows computer: it has at most 15 letters, digits and hyphens, and not digits alone", name)
		}
		text = computerName.ReplaceAll(text, []byte("${1}"+name+"${2}"))
	}
	var missing []string
	text = answerVariable.ReplaceAllFunc(text, func(m []byte) []byte {
		v, ok := env[string(m[2:len(m)-1])]
		if !ok {
			missing = append(missing, string(m))
		}
		var b bytes.Buffer
		xml.EscapeText(&b, []byte(v)) // to memory
		return b.Bytes()
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("the answer file has %s, which the node does not", strings.Join(missing, ", "))
	}
	var any struct{}
	if err := xml.Unmarshal(text, &any); err != nil {
		return nil, fmt.Errorf("the answer file is no XML: %w", err)
	}
	return text, nil
}
