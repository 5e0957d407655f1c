// Package imagestore keeps the bytes of images on the control plane's disk, under
// their SHA-256, and the uploads that are on their way there. It knows nothing of
// names and of who may launch what: that is the catalog's, in the log.
//
//	DIR/content/<sha256>       whole, verified, inspected; never written again
//	DIR/uploads/<id>.json      what an upload is to become, and how far it is
//	DIR/uploads/<id>.part      its bytes
//
// A file comes into content by a rename after its bytes are durable, so what is
// there is whole. Start reading at [Store.Begin], then [Store.Append].
package imagestore
