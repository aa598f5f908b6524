//! Does a certificate from an ACME server come, and its successor, without anybody's help?
