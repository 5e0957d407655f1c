// Package streamstest starts real servers for tests: one, or three in this process
// on loopback, which behave differently and both have to be tested. Everything is
// stopped at the end of the test.
package streamstest
