package domaintest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SourceChange is other text in a file of the module, for a build that the tree does not
// have: a planted bug, the next release.
type SourceChange struct{ File, Old, New string }

// Text is the file, under the module's root, with the change in it. What is changed has to
// stand there once.
func (c SourceChange) Text(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, c.File))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(b), c.Old); n != 1 {
		return "", fmt.Errorf("%s has %d times, want once: %q", c.File, n, c.Old)
	}
	return strings.Replace(string(b), c.Old, c.New, 1), nil
}

// Overlay writes the changes, one a file, into dir, and returns what the go command's
// -overlay takes: the compiler gets them, and the tree stays as it is.
func Overlay(root, dir string, changes ...SourceChange) (string, error) {
	replace := map[string]string{}
	for i, c := range changes {
		text, err := c.Text(root)
		if err != nil {
			return "", err
		}
		original, err := filepath.Abs(filepath.Join(root, c.File))
		if err != nil {
			return "", err
		}
		replace[original] = filepath.Join(dir, strconv.Itoa(i)+".go")
		if err := os.WriteFile(replace[original], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, b, 0o600)
}
