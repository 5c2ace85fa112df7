"""Networks as pure functions of (params, arrays). Nothing here imports the rest of jaxtune."""
