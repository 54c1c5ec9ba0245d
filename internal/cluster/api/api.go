// Package api holds the messages between command line, web page, agent and server. docs/formats/api.md describes them.
package api

// Error is an error as it crosses the wire, with its hint.
type Error struct {
	Code    string `json:"code"`           // "not_found", "conflict", "bad_request", "denied", "busy", "internal", ...
	Message string `json:"message"`        // what, where, why; lower case
	Hint    string `json:"hint,omitempty"` // what to do next
}

func (e *Error) Error() string { return e.Message }
