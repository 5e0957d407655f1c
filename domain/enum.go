package domain

import "fmt"

// enumName is the name of v, or a number in words for a value from the future.
func enumName[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("unknown-%d", v)
}

func enumParse[T ~uint8](v *T, names []string, s, what string) error {
	for i, n := range names {
		if n == s {
			*v = T(i)
			return nil
		}
	}
	return fmt.Errorf("%q is not a %s: want one of %v", clip(s, 32), what, names)
}
