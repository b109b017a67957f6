"""What is decided, without Ray, input or output, or asyncio; time comes from a clock that is given."""
