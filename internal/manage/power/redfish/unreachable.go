package redfish

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"syscall"

	"mimeo/internal/manage/power"
)

// unreachable is the error for a request that got no answer.
func (c *Client) unreachable(err error) error {
	cause := err
	var op *net.OpError
	if errors.As(err, &op) {
		cause = op // without the method and URL around it
	}
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		record      tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &certificate), errors.As(err, &authority):
		return c.errorf(power.ErrDenied, "has a certificate that is not trusted here", "set bmc.insecure=true to accept it all the same, or have the BMC's certificate signed", cause)
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return c.errorf(power.ErrUnreachable, "does not speak TLS on this port", "see whether its address is right; redfish+http:// is for BMCs without TLS", cause)
	}
	hint := "see whether its address is right and can be reached from here"
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		hint = `see which way packets take: "ip route get ` + c.host + `"`
	}
	return c.errorf(power.ErrUnreachable, "cannot be reached", hint, cause)
}

// notSent tells whether a request surely did not arrive: there was no connection.
func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
