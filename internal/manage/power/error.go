package power

import (
	"errors"

	"mimeo/internal/cluster/api"
)

// The kinds of trouble with a BMC, for errors.Is.
var (
	ErrByHand      = errors.New("this node has no BMC: a person switches it")
	ErrUnreachable = errors.New("the BMC does not answer")
	ErrDenied      = errors.New("the BMC refused the account")
	ErrSuite       = errors.New("the BMC has none of the wanted cipher suites")
	ErrRefused     = errors.New("the BMC refused the command")
	ErrBusy        = errors.New("the BMC cannot do it just now")
	ErrState       = errors.New("the new power state was not reached")
	ErrCannot      = errors.New("this way of switching a node cannot do it")
	ErrTaken       = errors.New("another has the BMC's serial console")
	ErrSent        = errors.New("it was sent, and nobody can tell what came of it")
)

// Error is trouble with one BMC: what kind, with which BMC, and what to do. errors.Is finds its kind and its cause,
// errors.As the api.Error that an admin is shown.
type Error struct {
	Kind  error  // one of the above
	BMC   string // its address
	Text  string // what it did, as "refused user \"admin\""
	Hint  string
	Cause error // may be nil
}

func (e *Error) Error() string {
	text := "BMC " + e.BMC + " " + e.Text
	if e.BMC == "" {
		text = e.Text
	}
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Unwrap gives the kind, the cause and the form for the wire.
func (e *Error) Unwrap() []error {
	out := []error{e.Kind, &api.Error{Code: e.code(), Message: e.Error(), Hint: e.Hint}}
	if e.Cause != nil {
		out = append(out, e.Cause)
	}
	return out
}

func (e *Error) code() string {
	switch e.Kind {
	case ErrByHand:
		return "by_hand"
	case ErrUnreachable:
		return "unreachable"
	case ErrDenied:
		return "denied"
	case ErrBusy:
		return "busy"
	case ErrTaken:
		return "conflict"
	case ErrRefused, ErrSuite, ErrCannot:
		return "refused"
	case ErrSent:
		return "sent"
	}
	return "power"
}
