//! The block layer: graph, request path, engines, QMP.
