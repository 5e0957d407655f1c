package wipe

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every reason, this package's and the domain's, is in the runbook.
func TestReasonsAreDocumented(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range []string{"reason.go", "../../domain/wipe.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(wipe\.[a-z_]+)"`).FindAllStringSubmatch(string(b), -1) {
			seen++
			if !strings.Contains(string(docs), "`"+m[1]+"`") {
				t.Errorf("docs/operations.md does not say what to do about %s", m[1])
			}
		}
	}
	if seen < 40 {
		t.Fatalf("only %d reasons were found", seen)
	}
}
