package gpuaas_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The documentation is held against the code: what it shows is run, what it names
// has to be there.

// docs are README.md and everything in docs/.
func docs(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	if err != nil || len(files) < 5 {
		t.Fatalf("docs/*.md: %v, %v", files, err)
	}
	out := map[string]string{}
	for _, f := range append(files, "README.md") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[f] = string(b)
	}
	return out
}

// shellBlocks are the ```sh blocks of a document: all, or those under the line
// <!-- tested -->. A block that calls make installs and serves: it is not run.
func shellBlocks(text string, onlyMarked bool) (blocks []string) {
	lines, in, marked := strings.Split(text, "\n"), false, false
	for _, line := range lines {
		switch {
		case in && line == "```":
			in = false
		case in:
			blocks[len(blocks)-1] += line + "\n"
		case line == "```sh" && (marked || !onlyMarked):
			in, marked, blocks = true, false, append(blocks, "")
		case line != "":
			marked = line == "<!-- tested -->"
		}
	}
	return slices.DeleteFunc(blocks, func(b string) bool { return regexp.MustCompile(`(?m)^(sudo )?make `).MatchString(b) })
}

const (
	buildTimeout = 5 * time.Minute
	walkTimeout  = 90 * time.Second
)

// TestDocumentedCommands runs what README.md and docs/api.md show against a real
// development site, as a reader would who has just typed make dev.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds and runs a whole site")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skipf("THE DOCUMENTED COMMANDS WERE NOT RUN: %v: apt-get install curl", err)
	}
	home := openTempDir(t)
	bin := filepath.Join(home, "bin")
	build, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	if out, err := exec.CommandContext(build, "go", "build", "-o", bin+"/", "./cmd/gpuaas", "./cmd/hostd", "./cmd/gpuctl").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	t.Run("settings", func(t *testing.T) { compareSettings(t, filepath.Join(bin, "gpuaas"), home) })
	t.Run("units", func(t *testing.T) { checkUnits(t, bin) })
	if t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), walkTimeout)
	t.Cleanup(cancel) // after the site was stopped
	server := startDev(ctx, t, filepath.Join(bin, "gpuaas"), filepath.Join(home, ".local", "share", "gpuaas-dev"))
	for _, doc := range []struct {
		file   string
		marked bool
		least  int // blocks there are, so that losing them is noticed
	}{{"README.md", false, 2}, {filepath.Join("docs", "api.md"), true, 4}} {
		blocks := shellBlocks(docs(t)[doc.file], doc.marked)
		if len(blocks) < doc.least {
			t.Fatalf("%s: %d blocks to run, want %d or more", doc.file, len(blocks), doc.least)
		}
		script := strings.Join(blocks, "\n")
		run := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-x", "-c", script)
		run.Dir = home
		run.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
			return strings.HasPrefix(v, "GPU") || strings.HasPrefix(v, "XDG_") || strings.HasPrefix(v, "HOME=")
		}), "HOME="+home, "SERVER="+server, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
		run.WaitDelay = time.Second
		if out, err := run.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", doc.file, err, out)
		}
	}
	t.Run("metrics", func(t *testing.T) { compareMetrics(ctx, t, server) })
}

// checkUnits has systemd read the units in deploy, and our programs what the units call
// them with.
func checkUnits(t *testing.T, bin string) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skipf("THE SYSTEMD UNITS WERE NOT CHECKED: %v", err)
	}
	units, err := filepath.Glob("deploy/*/*.service")
	timers, _ := filepath.Glob("deploy/*/*.timer")
	if err != nil || len(units) < 4 || len(timers) < 1 {
		t.Fatalf("units: %q, %q, %v", units, timers, err)
	}
	start, user := regexp.MustCompile(`(?m)^ExecStart=(\S+) (.*)$`), regexp.MustCompile(`(?m)^User=.*$`)
	dir := t.TempDir()
	verify := []string{"verify", "--man=no"}
	for _, timer := range timers { // beside their services
		name := filepath.Join(dir, filepath.Base(timer))
		if b, err := os.ReadFile(timer); err != nil {
			t.Fatal(err)
		} else if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		verify = append(verify, name)
	}
	for _, unit := range units {
		b, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		call := start.FindSubmatch(b)
		if call == nil {
			t.Fatalf("%s starts nothing", unit)
		}
		program, args := filepath.Join(bin, filepath.Base(string(call[1]))), strings.Fields(string(call[2]))
		if _, err := os.Stat(program); err != nil {
			program = "/bin/true" // somebody else's
		} else if out, err := exec.CommandContext(t.Context(), program, append(args, "--help")...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", unit, err, out)
		}
		b = start.ReplaceAll(b, []byte("ExecStart="+program+" $2"))
		b = user.ReplaceAll(b, []byte("User=root")) // accounts are the operator's to make
		name := filepath.Join(dir, filepath.Base(unit))
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		verify = append(verify, name)
	}
	if out, err := exec.CommandContext(t.Context(), "systemd-analyze", verify...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// openTempDir is a temporary directory that Postgres's own user can enter.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// startDev runs gpuaas dev until the test ends, and returns its address.
func startDev(ctx context.Context, t *testing.T, program, dataDir string) string {
	t.Helper()
	cmd := exec.Command(program, "dev", "--data-dir", dataDir, "--listen", "127.0.0.1:0", "--log-level", "warn")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_, _ = io.Copy(io.Discard, stdout)
		if err := cmd.Wait(); err != nil {
			t.Errorf("gpuaas dev ended with %v\n%s", err, stderr.String())
		}
	})
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { stop() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	words := strings.Fields(line)
	if err == nil && len(words) > 1 && words[0] == "ready" {
		return words[1]
	}
	_, _ = io.Copy(io.Discard, stdout)
	_ = cmd.Wait()
	if strings.Contains(stderr.String(), "no Postgres found") {
		t.Skipf("THE DOCUMENTED COMMANDS WERE NOT RUN: %s", stderr.String())
	}
	t.Fatalf("gpuaas dev did not get ready: %q, %v\n%s", line, err, stderr.String())
	return ""
}

// compareSettings holds the table of docs/operations.md against the settings there are.
func compareSettings(t *testing.T, program, dir string) {
	out, err := exec.Command(program, "config", "show", "--data-dir", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("config show: %v\n%s", err, out)
	}
	var have []string
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		name, _, _ := strings.Cut(line, ":")
		have = append(have, name)
	}
	compareTable(t, "docs/operations.md", "Configuration", have)
}

// compareMetrics: every metric of ours that is documented is there, and the other
// way round.
func compareMetrics(ctx context.Context, t *testing.T, server string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (gpuaas_\w+) `).FindAllStringSubmatch(string(b), -1) {
		have = append(have, m[1])
	}
	compareTable(t, "docs/operations.md", "Metrics", have)
}

// compareTable compares the first column of the table under a heading.
func compareTable(t *testing.T, file, heading string, have []string) {
	t.Helper()
	_, section, ok := strings.Cut(docs(t)[filepath.FromSlash(file)], "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", file, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^|]*)` \\|").FindAllStringSubmatch(section, -1) {
		want = append(want, strings.Split(row[1], "`, `")...)
	}
	for _, name := range have {
		if !slices.Contains(want, name) {
			t.Errorf("%s, %q: the table lacks %s", file, heading, name)
		}
	}
	for _, name := range want {
		if !slices.Contains(have, name) {
			t.Errorf("%s, %q: there is no %s", file, heading, name)
		}
	}
}

// TestImportTableIsDocumented compares the rows of imports_test.go and of
// docs/architecture.md.
func TestImportTableIsDocumented(t *testing.T) {
	t.Parallel()
	var have []string
	for dir := range house {
		have = append(have, dir)
	}
	compareTable(t, "docs/architecture.md", "What may import what", have)
}

// refusal finds a call that makes a refusal, and the first dotted code in its line.
var refusal = regexp.MustCompile(`(?m)\b(?:Errorf|invalid|invalidField|headerError)\(.*?"([a-z_]+\.[a-z_]+)"`)

// madeOfParts are the codes that stand nowhere as a whole, or that only HTTP knows.
var madeOfParts = []string{
	"allocation.not_found", "api_key.not_found", "host.not_found", "project.not_found", "slot.not_found", "tenant.not_found",
	"user.not_found", "vm.not_found", "device.not_found", "tenant.past_due", "tenant.suspended",
	"image.backing_file", "image.external_data", "image.encrypted", "image.corrupt", // hostd/image says them first
	"route.not_found", "request.method", "request.not_acceptable", "invariant.broken", "internal",
	"site.starting", // before there is a server
	"not_writer",
}

// TestProblemCodesAreDocumented: every code a caller can get is in docs/api.md, and
// every code there can be got.
func TestProblemCodesAreDocumented(t *testing.T) {
	t.Parallel()
	var have []string
	for _, dir := range []string{"domain", "commands", "projections", "api", "cmd/gpuaas", "cmd/gpuaas/imagestore"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range refusal.FindAllStringSubmatch(string(b), -1) {
				switch family, _, _ := strings.Cut(m[1], "."); family {
				case "report", "writer", "vm": // said to hosts and in logs; vm is made of its name
				default:
					have = append(have, m[1])
				}
			}
		}
	}
	if len(have) < 80 {
		t.Fatalf("only %d codes found", len(have))
	}
	slices.Sort(have)
	have = append(slices.Compact(have), madeOfParts...)
	compareTable(t, "docs/api.md", "Codes", have)
}

// TestDocumentedNamesExist: links, files and tests that the documents name are there.
func TestDocumentedNamesExist(t *testing.T) {
	t.Parallel()
	tests := allTests(t)
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code := regexp.MustCompile("`([^`\n]+)`")
	path := regexp.MustCompile(`^(?:[\w.*-]+/)+[\w.*-]*$|^[\w.-]+\.(?:go|md|sh)$`)
	folders := []string{"api", "billing", "client", "cmd", "commands", "console", "deploy", "docs", "domain", "hostd", "migrations", "projections", "scripts", "streams"}
	for file, text := range docs(t) {
		if regexp.MustCompile(`/(root|home|var/tmp)/`).MatchString(text) {
			t.Errorf("%s speaks of a path of some machine", file)
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if err := checkLink(file, m[1]); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		for _, m := range code.FindAllStringSubmatch(text, -1) {
			word := strings.TrimPrefix(m[1], "./")
			if strings.HasPrefix(word, "Test") && regexp.MustCompile(`^\w+$`).MatchString(word) && !tests[word] {
				t.Errorf("%s: there is no test %s", file, word)
			}
			top, _, _ := strings.Cut(word, "/")
			if !path.MatchString(word) || strings.Contains(word, "/") && !slices.Contains(folders, top) {
				continue
			}
			if found, err := filepath.Glob(filepath.FromSlash(strings.TrimSuffix(word, "/"))); err != nil || len(found) == 0 {
				t.Errorf("%s: there is no %s", file, word)
			}
		}
	}
}

func checkLink(from, to string) error {
	if strings.Contains(to, "://") {
		return nil
	}
	path, anchor, _ := strings.Cut(to, "#")
	target := from
	if path != "" {
		target = filepath.Join(filepath.Dir(from), filepath.FromSlash(path))
	}
	b, err := os.ReadFile(target)
	if st, serr := os.Stat(target); serr == nil && st.IsDir() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the link %s leads nowhere", to)
	}
	if anchor == "" {
		return nil
	}
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(b), -1) {
		slug := strings.ReplaceAll(strings.ToLower(h[1]), " ", "-")
		if regexp.MustCompile(`[^a-z0-9_-]`).ReplaceAllString(slug, "") == anchor {
			return nil
		}
	}
	return fmt.Errorf("the link %s: no such heading", to)
}

// allTests are the names of the tests there are.
func allTests(t *testing.T) map[string]bool {
	t.Helper()
	out, name := map[string]bool{}, regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range name.FindAllStringSubmatch(string(b), -1) {
			out[m[1]] = true
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}
