"""What every face stands on: validation, roles, errors as status, the frame around a call, conversion. No use cases."""
