"""What is remembered: synchronous SQLAlchemy Core on a Connection, run in a small executor. Never imports a driver's
package, a face or a use case, and decides nothing: it keeps what `lifecycle` and `placement` decided."""
