//! HTTP and WebSocket.
