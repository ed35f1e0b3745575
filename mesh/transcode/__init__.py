"""Protobuf services and their REST form: what control plane, gateway and command line share about them. All pure."""
