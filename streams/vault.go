package streams

// MaxDocumentBytes bounds a vault document before encryption.
const MaxDocumentBytes = 1 << 20
